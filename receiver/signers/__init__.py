"""How providers sign, for the simulator and the tests: written apart from the verifiers, one module per family."""
