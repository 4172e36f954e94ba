"""IMA adversarial training for nnU-Net v2.

Keep this file free of imports: it is loaded at every interpreter start (see `nnunet_ima._register`).
"""

__version__ = "0.1.0"
