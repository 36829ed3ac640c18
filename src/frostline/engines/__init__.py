"""Engines that run a frozen part."""
