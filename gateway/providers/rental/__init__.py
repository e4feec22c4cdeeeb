"""Machines rented by the hour while there is work and given back after it, whichever cloud they are of."""
