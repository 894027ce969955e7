"""The servers that are compared, each written as well as its best users would write it."""
