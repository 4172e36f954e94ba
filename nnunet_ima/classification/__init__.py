"""Classifiers of whole images, with nnU-Net's encoder or the paper's ResNet-18."""
