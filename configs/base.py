"""Every key that a config may set, with its default and its unit.

A config is a short program: it takes `base.get_config()`, changes what it needs and
returns it. There are no defaults anywhere else in the code. What depends on other
keys (learning rate from batch size, steps from epochs, warm-up, the step at which AGVM
starts) is derived after the command line has been read, and printed.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "base"  # runs/<name>/<seed>/ is the run folder
    config.workdir = ""  # another run folder; "" for runs/<name>/<seed>
    config.seed = 0  # of the order of images, augmentation, initial weights
    config.batch_size = 16  # images a step, over all devices
    config.micro_batch_size = 0  # images a device holds at once; 0: its whole share
    config.epochs = 12.0  # passes over the training images
    config.steps = 0  # of the whole run; 0: from epochs
    config.image_size = (256, 256)  # (height, width) of the input; one number: square

    data = config.data = ConfigDict()  # what is learned from, and how it is prepared
    # shapes (generated) | coco (2017 layout) | coco_folder | lvis (v1) | yolo
    # | ade20k (SceneParse150) | label_folder (images beside label PNGs)
    # | auto: that of these that root's content tells | "": auto where there is a root,
    # else shapes
    data.name = ""
    data.root = ""  # folder with annotations and images; yolo: or its data.yaml
    data.train_annotations = "instances_train.json"  # a coco_folder's, under root
    data.val_annotations = "instances_val.json"  # the same for validation
    data.train_images = "train"  # folder of the images, under root
    data.val_images = "val"  # the same for validation
    # Read when `semantic` asks for labels; its PNGs lie in panoptic_train/.
    data.train_panoptic = "panoptic_train.json"
    data.val_panoptic = "panoptic_val.json"  # the same for validation
    # label_folder: PNGs named as the images are. coco_folder: those of the stuff, read
    # when `semantic` asks for labels and there is no panoptic file; their first value
    # means "some thing".
    data.train_labels = "train_labels"
    data.val_labels = "val_labels"  # the same for validation
    data.label_names = ()  # of these PNGs' classes; (): the lines of classes.txt
    data.label_void = (255,)  # values of these PNGs without a class
    # A coco_folder, label_folder or yolo set without a validation split: this share of
    # its images is held out, chosen by their names and the seed. It counts as without
    # one where the val_ keys have their defaults, or are "", and nothing is there.
    data.val_share = 0.1
    data.val_seed = 0  # chooses them
    # Whether annotations are of images turned as their EXIF data say, where a stated
    # size does not tell: applied | ignored | auto: applied for yolo, ignored for coco,
    # lvis and ade20k; in folders as for most images whose stated size does tell.
    data.exif_turns = "auto"
    data.cache_dir = "~/.cache/agvm_jax"  # where prepared ArrayRecord files live
    data.max_boxes = 100  # objects an image keeps; what is dropped is counted
    data.mask_size = 0  # side of each object's mask, cropped to its box; 0: no masks
    data.semantic = "none"  # label maps: none | stuff (things are one class) | all
    data.semantic_stride = 4  # pixels of the input a label stands for, each way
    data.flip = 0.5  # probability of a horizontal flip in training
    # Random scale of the image; what reaches over the input is cut, what falls short
    # is padded. (0.1, 2.0) is large-scale jitter.
    data.scale_range = (1.0, 1.0)
    # Pixels of the shorter side, one of them sampled in training, the largest taken in
    # evaluation; (): as large as image_size allows.
    data.short_sides = ()
    data.long_side = 0  # pixels the longer side may have; 0: as image_size allows
    # Images in a row that share a frame: image_size, or image_size turned for those
    # higher than wide. A multiple of devices x micro_batch_size. 0: one frame for all.
    data.orientation_group = 0
    # Random crop: none | size | iou (SSD's, around an object) | frame: images have the
    # sides that short_sides, long_side and scale_range say, and a window of image_size
    # is cut out of them (mmsegmentation's RandomCrop).
    data.crop = "none"
    data.crop_range = (0.3, 1.0)  # size, iou: share of each side that a crop keeps
    data.crop_probability = 1.0  # size, iou: that a training image is cropped
    # Largest share of the labelled pixels of a training image that one class may have:
    # up to ten other windows are tried. 1: any.
    data.cat_max_ratio = 1.0
    # Probability that objects of another image are pasted over a training image by
    # their masks (Ghiasi et al. 2021); each is taken with probability 1/2, and both
    # images are augmented on their own. Theirs goes with scale_range (0.1, 2.0).
    data.copy_paste = 0.0
    # Whether training leaves out images without an object (or with crowds alone): of
    # COCO's 118,287 images 117,266 stay.
    data.filter_empty = False
    # Photometric distortion, each with probability 1/2; SSD: 0.125, 0.5, 0.5, 0.05.
    data.brightness = 0.0  # Largest shift, as a share of 255.
    data.contrast = 0.0  # factors are 1 minus to 1 plus this
    data.saturation = 0.0  # factors, as of contrast
    data.hue = 0.0  # largest turn, as a share of the colour circle
    data.num_threads = 0  # reading threads a process; 0: one a core, up to 16
    data.prefetch = 4  # batches prepared ahead
    data.max_unreadable = 10  # unreadable images skipped before it is an error
    data.shapes = ConfigDict()  # the generated set
    data.shapes.train_images = 1024  # images that are drawn
    data.shapes.val_images = 128  # the same for validation
    data.shapes.image_size = (128, 128)  # as drawn, before resizing
    data.shapes.max_objects = 6  # an image, at least one
    data.shapes.stuff = False  # divide the ground into stuff classes
    data.shapes.seed = 0  # another one draws other images

    model = config.model = ConfigDict()  # the detector
    # retinanet | faster_rcnn | mask_rcnn | cascade_rcnn | cascade_mask_rcnn
    # | panoptic_fpn | semantic_fpn
    model.detector = "retinanet"
    # resnet18 | resnet34 | resnet50 | swin_t | swin_s | swin_b | swin_l
    # | uninet_b0 ... uninet_b6 | uninet_30m | uninet_1b (models/backbones/uninet.py)
    model.backbone = "resnet18"
    model.width = 1.0  # multiplies the backbone's channels
    model.norm = "synced"  # frozen | local | synced BatchNorm in ResNets and UniNets
    # Swin, UniNet: chance that the last block's branches are left out.
    model.drop_path = 0.2
    # UniNet: the backward pass computes blocks again, memory holds their inputs alone.
    model.remat = True
    model.fpn_channels = 256  # of every level of the FPN, and of the heads
    # What RetinaNet's P6 is computed from: c5 | p5 (torchvision's published
    # retinanet_resnet50_fpn).
    model.p6_from = "c5"
    # Compute; parameters stay float32. float32 | bfloat16 | auto: bfloat16 on
    # accelerators, float32 on CPUs, which only emulate it.
    model.dtype = "float32"
    # Which forms of ops programs are made of: cpu | gpu | tpu | auto, that of the
    # devices. They differ in speed and in rounding; all run everywhere.
    model.op_forms = "auto"
    # The loss is to be differentiated in forward mode (jax.jvp) too. Only on a CPU does
    # it cost time: some of its forms have no such derivative, and others stand in.
    model.forward_mode = False
    model.image_mean = (123.675, 116.28, 103.53)  # of red, green, blue, 0 to 255
    model.image_std = (58.395, 57.12, 57.375)  # what is divided by, likewise
    # Each head has a section, of which it takes every key; what a paper fixes is a
    # default in models/heads/.
    anchors = model.anchors = ConfigDict()
    # Pixels, one size a level: P3..P7 of RetinaNet, P2..P6 of R-CNN. (): from the
    # boxes of the training images; what was chosen is printed.
    anchors.sizes = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchors.scales = 3  # octave steps a level: size * 2 ** (i / 3); R-CNN: 1
    anchors.ratios = (0.5, 1.0, 2.0)  # height / width
    head = model.retina_head = ConfigDict()  # RetinaNet
    head.num_convs = 4  # convolutions in each of its two towers
    head.score_threshold = 0.05  # of detections
    head.nms_threshold = 0.5  # IoU above which the weaker of two of a class is dropped
    head.soft_nms = ""  # linear | gaussian: its score is lowered instead
    head.pre_nms_top_k = 1000  # candidates a level
    head.max_detections = 100  # an image
    rpn = model.rpn = ConfigDict()  # R-CNN: pairs are (training, evaluation)
    rpn.pre_nms_top_k = (2000, 1000)  # candidates a level
    rpn.post_nms_top_k = (2000, 1000)  # proposals an image
    rpn.nms_threshold = 0.7  # IoU, as of retina_head
    rpn.samples = 256  # anchors an image that it learns from
    head = model.box_head = ConfigDict()  # R-CNN
    head.width = 1024  # units of each of its two layers
    head.samples = 512  # proposals an image that it and the mask head learn from
    head.loss_weight = 1.0  # of its two losses; 1 in R-CNNs
    head = model.cascade_head = ConfigDict()  # Cascade R-CNN, in place of box_head
    head.width = 1024  # units of each of the two layers of each stage
    head.samples = 512  # proposals an image that all its stages learn from
    head.ious = (0.5, 0.6, 0.7)  # of each stage: what an object is
    head.loss_weights = (1.0, 0.5, 0.25)  # of each stage
    for head in (model.box_head, model.cascade_head):
        head.score_threshold = 0.05  # of detections
        head.nms_threshold = 0.5  # IoU, as of retina_head
        head.soft_nms = ""  # as of retina_head
        head.pre_nms_top_k = 1000  # candidates an image
        head.max_detections = 100  # an image
    head = model.mask_head = ConfigDict()  # Mask R-CNN, Panoptic FPN
    head.num_convs = 4  # 3x3 convolutions in front of the masks
    head.loss_weight = 1.0  # of its loss
    head = model.semantic_head = ConfigDict()  # Semantic FPN, Panoptic FPN
    head.channels = 128  # of every stage
    # Labels a pixel of the input each way that evaluation gets, to be looked up at the
    # original image's pixels. 1 is enough where images are not resized.
    head.label_scale = 3
    head.loss_weight = 1.0  # of its loss
    # How images are looked at in evaluation (mmsegmentation's names): NMS sees what all
    # views found, masks and logits are averaged.
    test_cfg = model.test_cfg = ConfigDict()
    test_cfg.flip = False  # mirrored, too
    test_cfg.img_ratios = ()  # with sides multiplied by each; (): as they are
    test_cfg.mode = "whole"  # whole | slide: in overlapping windows, semantic_fpn alone
    test_cfg.crop_size = (512, 512)  # of a window: height, width; multiples of 4
    test_cfg.stride = (340, 340)  # from one window to the next; multiples of 4

    optim = config.optim = ConfigDict()  # the base optimizer, its rate
    optim.name = "adamw"  # sgd | adamw | lars | lamb | pmd_lamb | sam | megdet
    optim.lr = 1e-4  # the rate at `lr_batch`; 0: the optimizer's usual rate and rule
    optim.lr_batch = 16  # the batch that lr is meant for
    optim.lr_rule = "sqrt_above"  # up to batch_size: sqrt_above | linear | sqrt | none
    optim.linear_limit = 128  # sqrt_above: linear up to this batch
    optim.weight_decay = 1e-4  # of sgd into the gradient, else decoupled
    # Parameters with one of these words in their path do not decay (sgd, adamw, sam).
    optim.no_decay = ()
    optim.momentum = 0.9  # sgd, sam, megdet, lars
    optim.b1 = 0.9  # Adam's, of the first moment
    optim.b2 = 0.999  # of the second
    optim.eps = 1e-8  # added to the root of the second moment
    optim.warmup = "linear"  # how the rate rises: linear | exponential
    optim.warmup_epochs = 1.0  # its length; 0: none
    optim.warmup_steps = -1  # >= 0: instead of warmup_epochs
    optim.warmup_ratio = 1e-3  # first rate / full rate
    optim.schedule = "step"  # how the rate falls: constant | step | poly | cosine
    optim.decay_at = (0.66, 0.92)  # step: shares of the run at which the rate drops
    optim.decay_factor = 0.1  # step: by which it drops each time
    optim.poly_power = 0.9  # poly: of the share of the run that is left
    optim.end_ratio = 0.0  # poly, cosine: last rate / full rate
    optim.clip_norm = 0.0  # largest global norm of the gradient; 0: no clipping
    optim.clip_window = (0, -1)  # steps [first, last] in which it clips; -1: to the end
    # Whether that window's steps count from the end of the warm-up and so go with the
    # batch: (-100, 100) is then the 100 steps before it, to the 100th after.
    optim.clip_around_warmup = False
    optim.trust_coefficient = 0.001  # lars: times weight norm / gradient norm
    optim.sam_rho = 0.05  # sam: length of the perturbation
    optim.sam_inner = "sgd"  # sam: the optimizer that takes the step: sgd | adamw
    optim.sam_synced = False  # sam: one perturbation for all replicas
    optim.pmd_period = 10  # pmd_lamb (a reconstruction): steps
    optim.pmd_decay = 0.1  # pmd_lamb: moments are multiplied by this each period

    agvm = config.agvm = ConfigDict()  # docs/algorithm.md
    agvm.enabled = True  # False: the optimizer alone
    agvm.anchor = "backbone"  # the module that the others are scaled to
    # Pairs (pattern, module): the first pattern found in a parameter's path names its
    # module; where none is found it is the first part of the path. (): that for all.
    # A module for each box stage of a cascade:
    # (("^box_head/stages/([0-9])", r"box_head_\1"),)
    agvm.modules = ()
    agvm.estimator = "halves"  # halves (paper) | norms (ours, less noise)
    agvm.split = "interleaved"  # of halves: interleaved (paper) | contiguous
    agvm.tau = 0  # steps between updates of mu; 0: 10, or 5 above batch 1024
    agvm.alpha = 0.97  # smoothing of mu, eq. 5
    agvm.start_step = -1  # -1: when the warm-up ends, and start_delay steps after
    agvm.start_delay = 0  # steps; goes with the batch as the warm-up does
    agvm.clip = (0.5, 10.0)  # bounds of phi_anchor / phi_module, before the root
    agvm.eps = 1e-6  # added to both phi of the ratio
    # paper: eq. 5. growing: for runs of a few hundred steps, where eq. 5 hardly moves
    agvm.average = "paper"
    agvm.precondition = False  # adamw: cosine of g / (sqrt(v) + eps)

    train = config.train = ConfigDict()  # how a run begins, goes on, reports
    # Weights to start from: weights.safetensors of another run; a .pth, .npz or
    # .safetensors file under the names of torchvision, of a backbone also timm's or the
    # released UniNets'; the name of published ones (resnet50, swin_t,
    # retinanet_resnet50_fpn, ...; see models/weights/files.py);
    # "hf:OWNER/REPOSITORY/FILE" of the Hugging Face hub; or "": random ones.
    train.init_from = ""
    # all | backbone | all_but_heads: all but the layers that have a size for each class
    train.init_what = "backbone"
    # Parts of the backbone that stay as they were loaded: 0 none, 1 the stem, 2 the
    # first stage as well, 5 all. -1: 2 for a ResNet that starts from a file, else 0.
    train.freeze_at = -1
    train.weights_dir = "~/.cache/agvm_jax/weights"  # where fetched ones are kept
    # Another run to go on from, in a new folder and changed keys: RUN_FOLDER[:STEP].
    # The whole state and its step are carried over (training/start_from.py).
    train.start_from = ""
    # Steps whose batches are left out of the data, counted from its beginning: they
    # stand that far ahead, also after start_from, which takes this key from nowhere.
    train.skip_steps = 0
    # What is shared out over the devices: none | optimizer: its state and the update,
    # over all | full: parameters and frozen weights as well, over fsdp_size. Results
    # change by rounding alone, and a run may go on with another choice.
    train.shard = "none"
    train.fsdp_size = 0  # neighbours that share parameters; 0: devices of a process
    train.log_every_steps = 10  # steps from one line of metrics to the next
    train.eval_every_epochs = 1.0  # epochs between evaluations
    train.checkpoint_every_epochs = 1.0  # epochs between checkpoints
    train.checkpoint_every_minutes = 0.0  # and minutes, 0: by epochs alone
    train.keep_checkpoints = 3  # the last ones; the best is kept beside them
    # Decay of a moving average of the weights (training/averaging.py). 0: none.
    train.ema_decay = 0.0
    # The run ends after as many evaluations in a row without a gain. 0: it does not.
    train.stop_after_evaluations_without_gain = 0
    train.max_skipped_steps = 10  # non-finite steps in a row before the run stops
    train.profile_steps = (0, 0)  # (50, 5): steps 51 to 55, into profile/; (0, 0): none
    # Seconds that a step or an evaluation may take before it is told to hang; 0: any
    train.hang_seconds = 1800.0
    train.hang_stops = False  # whether it then ends with exit code 1
    # Where numbers go besides metrics.jsonl: tensorboard, wandb, mlflow, trackio, with
    # commas between several; "": nowhere.
    train.trackers = "tensorboard"
    train.tracker_project = "agvm_jax"  # what wandb, mlflow, trackio file runs under
    train.progress = True  # a progress bar

    evaluation = config.eval = ConfigDict()  # evaluation
    evaluation.batch_size = 16  # images a device
    # Size in evaluation, as published protocols have it: (1344, 1344) with sides of 800
    # and 1333 is the usual one of COCO. (), 0: as in training.
    evaluation.image_size = ()  # (height, width) of the input; one number: square
    evaluation.short_side = 0  # pixels; of data.short_sides it takes the largest
    evaluation.long_side = 0  # pixels it may have at most
    # Whether the frame is turned for images higher than wide; so it is in any case
    # where data.orientation_group is set.
    evaluation.orient = False
    # Best detections an image and class at which recall is reported; AP uses the last.
    # (): 1, 10 and 100; where the annotations are LVIS' (neg_category_ids), the best
    # 300 of an image: then set the head's max_detections = 300 too.
    evaluation.max_detections = ()
    # Panoptic: how instances and stuff become one map (evaluation/metrics).
    merge = evaluation.panoptic = ConfigDict()
    merge.score_threshold = 0.5  # instances below it are dropped
    merge.overlap_threshold = 0.5  # largest share that better instances may cover
    merge.stuff_area_limit = 4096  # stuff of fewer pixels of the image is left void
    evaluation.draw_images = 8  # validation images drawn at the end
    return config
