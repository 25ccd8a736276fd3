"""SAEs of other libraries: recognised, read without running anything, converted to the artefact's form.

    safe.py      files are hostile: sizes and headers are checked before anything is allocated
    detect.py    which library wrote a folder, from names and a look at the config
    saelens.py gemma_scope.py openai.py sparsify.py dictionary_learning.py bare.py   one reader a format
    foreign.py   what a reader hands back      fold.py   from the library's conventions to ours
    hooks.py     other names of models and sites
    source.py    a path, a zip file or a Hugging Face repository -> a folder
    spec.py      what an import can be asked for      importing.py   the run      proof.py   its check
    inspect.py   the same look at a file from another process, for the web program
"""
