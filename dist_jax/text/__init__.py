"""Class names as token ids."""
