"""File formats of other libraries: SAEs and dashboards, read without running code, and written.

    fetch.py              a path, a zip file or a Hugging Face repository -> a local folder
    detect.py             the library that wrote a folder, from file names and the config
    untrusted_tensors.py untrusted_json.py   checks of sizes and headers before anything is allocated
    readers/              one reader per library -> foreign.py: weights and facts as read
    fold.py               the library's conventions -> the artefact's
    foreign_names.py      other libraries' names of models and sites
    dashboards/           dashboards of other programs -> a build
    writers/              one writer per target
    histogram_bins.py token_text.py   histograms and tokens as dashboard files store them
"""
