"""How the suite is started: on one machine (local), in images and on clusters."""
