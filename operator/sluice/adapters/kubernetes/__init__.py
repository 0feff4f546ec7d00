"""The only room that imports kopf and kubernetes."""
