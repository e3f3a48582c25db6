plugins {
    id("com.android.ai-pack")
}

aiPack {
    packName = "ai_pack" // this folder's name
    dynamicDelivery { deliveryType = "install-time" } // with the app, as assets
}
