"""Weights of others: what their files hold, and tables {their name -> our path, transform}."""
