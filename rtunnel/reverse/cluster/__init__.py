"""The servers of a cluster: who may have a place, links from node to node, and visitors that cross them."""
