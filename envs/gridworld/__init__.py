"""Walks on a grid."""
