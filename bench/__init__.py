"""How fast it is beside what else there is: ``make bench``, or ``python -m bench``."""
