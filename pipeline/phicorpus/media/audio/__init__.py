"""Recordings: any format as mono windows, cut where nobody speaks."""
