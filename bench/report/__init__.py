"""Tables and pictures of what was measured: `make report`."""
