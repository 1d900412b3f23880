"""What a manifest means on this machine: store, data set, model files, device. Floor 5."""
