"""The learning side: streams a store through amalgamator and head. Floor 3, never meets
`diffusion`."""
