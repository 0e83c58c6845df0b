"""Images: Pillow's formats and what it gets wrong."""
