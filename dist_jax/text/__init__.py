"""Tokenizer and text features of class names."""
