"""The output: its files, which rows are current, how they are written, who runs and ran."""
