"""Programs for developers; never imported by the package."""
