"""Where visitors of host names arrive at the server: connections that have not said yet which service they want."""
