"""Tables placed on a described cluster: numpy alone, no torch, no weight allocated."""
