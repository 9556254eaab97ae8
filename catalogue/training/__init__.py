"""Simulate, train and evaluate; writes bundles."""
