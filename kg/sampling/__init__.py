"""The sampler: coherent triplet sets that cover a graph.

`kg.sampling.reference` describes the algorithm, step by step. `kg.sampling.draw`
has the one public function, `draw_sets`; `kg.sampling.stage` is the stage around it.
"""
