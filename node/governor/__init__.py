"""When this machine contributes: limits, sensors, orders, and what follows from them."""
