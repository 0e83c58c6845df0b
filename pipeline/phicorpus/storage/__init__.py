"""Where bytes come from and where tables go: open a URI safely, create a file if absent."""
