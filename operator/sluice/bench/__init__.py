"""What a reboot costs, measured: ours beside how such software is usually written."""
