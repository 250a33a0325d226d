"""Frozen image-text encoders, behind one interface: `base.Backbone`."""
