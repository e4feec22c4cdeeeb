"""Machines rented by the hour while there is work, from any cloud, and destroyed afterwards."""
