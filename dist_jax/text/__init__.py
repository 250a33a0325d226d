"""Class names as token numbers."""
