/* SPDX-License-Identifier: Apache-2.0 */
/* hf_path.h - what a path of the Hugging Face door asks for.
 *
 *   /api/models                     /api/models/ID/paths-info/REV      /ID/resolve/REV/FILE
 *   /api/models/ID                  /api/models/ID/refs                /ID/raw/REV/FILE
 *   /api/models/ID/revision/REV     /api/models/ID/commits/REV         /api/whoami-v2
 *   /api/models/ID/tree/REV/FOLDER
 *
 * ID is one part or two; REV is one part, or refs/KIND/NAME. The strings point into the path. Pure.
 */
#ifndef MDN_SERVE_HF_PATH_H
#define MDN_SERVE_HF_PATH_H

#include "base/str.h"

enum hf_ask {
	HF_NOTHING, /* not a path of this door */
	HF_FILE,
	HF_INFO,
	HF_TREE,
	HF_PATHS,
	HF_REFS,
	HF_COMMITS,
	HF_LIST,
	HF_WHOAMI,
	HF_OTHER, /* datasets and spaces, which are not kept here */
};

struct hf_path {
	enum hf_ask ask;
	struct str id, revision, path; /* revision: "main" when none is said */
};

struct hf_path hf_path_parse(struct str path);

#endif
