"""Classify images from the weights of the implicit networks that show them."""
