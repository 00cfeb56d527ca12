"""The fastest backend, precision and layers on this device, within a drift budget."""
