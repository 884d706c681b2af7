"""Predict the test accuracy of image classifiers from their weights alone."""
