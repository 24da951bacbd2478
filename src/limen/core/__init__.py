"""The pure floor: values in, values out. No clock, socket, file, environment or randomness here."""
