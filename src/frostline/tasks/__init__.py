"""What a network is trained to do: its loss and how its outputs are measured. One module a task."""
