"""IMA adversarial training for nnU-Net v2, and audits of its models.

From a notebook: `nnunet_ima.audit(model, images, labels, eps=...)` and `nnunet_ima.load_audit(folder)`, see
`nnunet_ima.notebook`. Keep this file free of imports: it is loaded at every interpreter start (see
`nnunet_ima._register`).
"""

__version__ = "0.2.0.dev0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nnunet_ima.notebook import audit as audit
    from nnunet_ima.notebook import load_audit as load_audit


def __getattr__(name: str) -> object:
    """Import what notebooks use as late as it is used."""
    if name in ("audit", "load_audit"):
        from nnunet_ima import notebook

        return getattr(notebook, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*globals(), "audit", "load_audit"])
