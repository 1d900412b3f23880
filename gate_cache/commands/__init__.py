"""The commands of the command line, a file a theme. Floor 8."""
