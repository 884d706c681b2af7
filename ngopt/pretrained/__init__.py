"""Shipped meta-parameters: one safetensors file each, with a model card beside it. See `ngopt.load_pretrained`."""
