"""The learning side: streams a store through amalgamator and head. Floor 4, never meets
`diffusion`."""
