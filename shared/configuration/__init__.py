"""What a deployment sets: the variables, how they are read and checked, and where connections may go."""
