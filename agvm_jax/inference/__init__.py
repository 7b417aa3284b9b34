"""Use of what was trained: images of any kind in, objects in their own pixels out."""
