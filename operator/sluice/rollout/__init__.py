"""When an engine may start. Knows memory and permits, not engines."""
