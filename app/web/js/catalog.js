// @ts-check
/* The catalog of known models and SAEs: the frame, whose buttons copy. */

import { start } from "./frame.js";

start();
