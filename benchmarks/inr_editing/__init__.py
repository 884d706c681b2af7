"""Edit implicit networks in their weights, so that their images are dilated, eroded, or of more contrast."""
