"""What a deployment configures: the variables, how they are read and checked, and where connections may go."""
