"""The control plane: database, scheduler, engines and the call log."""
