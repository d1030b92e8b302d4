"""What answers on port 135: endpoint mapper, OXID resolver, activation."""
