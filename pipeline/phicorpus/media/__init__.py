"""Bytes to segments: functions over bytes, images and samples. No network, no torch, no clock."""
