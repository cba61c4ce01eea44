"""HTTP: the public listener for providers, the admin listener for operators, and the process around them."""
