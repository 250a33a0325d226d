"""Shared by several test modules: small models, records, videos and training runs."""
